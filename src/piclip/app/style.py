"""How the page looks: system fonts only (nothing is fetched), light and dark."""

from __future__ import annotations

from typing import Any

FONTS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container {width: 100% !important; max-width: 1120px !important; margin: 0 auto !important;}
.gradio-container .main {padding: 18px clamp(8px, 2vw, 20px) 28px !important;}
#head h1 {font-size: 1.7rem; letter-spacing: -.02em; margin: .4rem 0 .1rem;}
#head a {color: var(--link-text-color);}
#head p {color: var(--body-text-color-subdued); margin: 0;}
.step {
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 14px; padding: 20px; gap: 16px;
}
.step .step-title h2 {font-size: 1.15rem; margin: 0;}
.step .step-title p {color: var(--body-text-color-subdued); margin: .2rem 0 0;}
.step .step-title h2 span {
  display: inline-block; width: 1.7em; height: 1.7em; line-height: 1.7em; margin-right: .55em;
  border-radius: 50%; text-align: center; font-size: .85em;
  background: var(--button-primary-background-fill); color: white;
}
/* or else canvas and captions widen the page on a phone */
#editor, #labelled, #queries, #results {contain: inline-size;}
.step .grid-container {grid-template-columns: repeat(auto-fill, minmax(94px, 1fr)) !important;}
.step .gallery-item {min-width: 0;}
.step .caption-label {max-width: 100%; font-size: .72rem; padding: 2px 6px;}
/* until the canvas is there, what is dropped on it would be lost */
#editor:not(:has(canvas)) > * {visibility: hidden;}
.gradio-container .html-container {padding: 0 !important;}
.step .grid-wrap {height: auto !important; min-height: 0 !important; max-height: 330px;}
.step [role=tab][aria-selected=true] {color: var(--link-text-color);}
.step input[type=range]::-webkit-slider-thumb {border: 2px solid var(--slider-color);}
.step input[type=range]::-moz-range-thumb {border: 2px solid var(--slider-color);}
.step .slim {align-self: flex-start; width: auto; min-width: 0; flex: 0 0 auto;}
.quiet, .quiet p {color: var(--body-text-color-subdued); font-size: .9rem;}
.examples {align-items: center; gap: 8px; flex-wrap: wrap;}
.examples button {flex: 0 0 auto; min-width: 0;}
.examples .quiet {flex: 0 0 auto; width: auto; min-width: 0;}
#status progress {width: 100%; height: 8px; accent-color: var(--color-accent);}
#status p {margin: .3rem 0 0;}
.empty {
  text-align: center; color: var(--body-text-color-subdued); padding: 2rem 1rem;
  border: 1px dashed var(--border-color-primary); border-radius: 10px;
}
footer .divider {display: none !important;}
.app-hidden {display: none !important;}
@media (max-width: 640px) {
  .step {padding: 14px 12px;}
  #head h1 {font-size: 1.4rem;}
}
"""


def theme() -> Any:  # noqa: ANN401  (gradio has no types here)
    """The page's theme: text and buttons reach a contrast of 4.5 to 1 on their ground."""
    import gradio as gr  # noqa: PLC0415

    base = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=FONTS,
        font_mono=MONO_FONTS,
        radius_size="md",
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        link_text_color="*secondary_700",
        link_text_color_dark="*secondary_400",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )
