"""Trained few-shot decoders: PFENet, BAM and HDMNet on frozen backbones, in plain PyTorch."""

from piclip.decoders.base import FewShotDecoder
from piclip.decoders.networks import build_decoder, load_decoder
from piclip.decoders.output import DecoderOutput

__all__ = ["DecoderOutput", "FewShotDecoder", "build_decoder", "load_decoder"]
