"""How the page looks: system fonts only (nothing is fetched), light and dark."""

from __future__ import annotations

from typing import Any

FONTS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important;}
#head h1 {font-size: 1.7rem; letter-spacing: -.02em; margin: .6rem 0 .1rem;}
#head p {color: var(--body-text-color-subdued); margin: 0;}
.step {
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 14px; padding: 18px 20px 20px; gap: 14px;
}
.step .step-title h2 {font-size: 1.1rem; margin: 0;}
.step .step-title p {color: var(--body-text-color-subdued); margin: .15rem 0 0;}
.step .step-title h2 span {
  display: inline-block; width: 1.6em; height: 1.6em; line-height: 1.6em; margin-right: .5em;
  border-radius: 50%; text-align: center; font-size: .9em;
  background: var(--primary-600); color: white;
}
.quiet, .quiet p {color: var(--body-text-color-subdued); font-size: .9rem;}
#examples {align-items: center; gap: 8px;}
#examples button {flex: 0 0 auto; min-width: 0;}
#examples .quiet {flex: 0 0 auto; width: auto; min-width: 0;}
#status progress {width: 100%; height: 8px; accent-color: var(--primary-600);}
#status p {margin: .3rem 0 0;}
.empty {
  text-align: center; color: var(--body-text-color-subdued); padding: 2.2rem 1rem;
  border: 1px dashed var(--border-color-primary); border-radius: 10px;
}
.app-hidden {display: none !important;}
footer {opacity: .7;}
@media (max-width: 640px) {
  .step {padding: 14px 12px;}
  #head h1 {font-size: 1.4rem;}
}
"""


def theme() -> Any:  # noqa: ANN401  (gradio has no types here)
    """The page's theme."""
    import gradio as gr  # noqa: PLC0415

    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=FONTS,
        font_mono=MONO_FONTS,
        radius_size="md",
    )
