"""Trained few-shot decoders: PFENet, BAM and HDMNet on frozen backbones, in plain PyTorch."""

from piclip.decoders.base import DecoderOutput, FewShotDecoder
from piclip.decoders.networks import build_decoder, load_decoder

__all__ = ["DecoderOutput", "FewShotDecoder", "build_decoder", "load_decoder"]
