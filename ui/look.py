"""How the page looks: a calm theme with local fonts, in light and dark, and what `launch` takes."""

from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

# The 600 weight of this font lacks most letters as gradio 6.31 ships it: 700 stands in for it.
SANS = (
    fonts.LocalFont("IBM Plex Sans", weights=(400, 700)),
    "Segoe UI",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
)
MONO = (fonts.LocalFont("IBM Plex Mono", weights=(400,)), "Menlo", "Consolas", "monospace")

INK = colors.Color(
    "#f6f7f9",
    "#eceef2",
    "#dcdfe6",
    "#c3c8d2",
    "#9aa1af",
    "#6d7482",
    "#4d5461",
    "#363c47",
    "#22262e",
    "#171a20",
    "#101217",
    name="ink",
)
COBALT = colors.Color(
    "#eef3ff",
    "#dce6ff",
    "#bccfff",
    "#91aeff",
    "#6488fb",
    "#3f66ee",
    "#2c4fd6",
    "#2540ad",
    "#22388a",
    "#1f306d",
    "#151f45",
    name="cobalt",
)


def theme() -> gr.Theme:
    """Return the theme; every font is served by this program or is the system's own."""
    base = gr.themes.Base(
        primary_hue=COBALT,
        secondary_hue=COBALT,
        neutral_hue=INK,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_lg,
        font=SANS,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        block_title_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, *primary_500 18%, transparent)",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_cancel_background_fill="transparent",
        button_cancel_background_fill_dark="transparent",
        button_cancel_background_fill_hover="*neutral_100",
        button_cancel_background_fill_hover_dark="*neutral_800",
        button_cancel_border_color="*neutral_300",
        button_cancel_border_color_dark="*neutral_700",
        button_cancel_text_color="*neutral_800",
        button_cancel_text_color_dark="*neutral_100",
        button_border_width="1px",
    )


STYLES = (
    "page.css",
    "vote.css",
    "data.css",
    "runs.css",
    "models.css",
    "evaluate.css",
    "lab.css",
)
SCRIPTS = ("page.js", "runs.js", "vote.js", "lab.js")


def launch_options() -> dict[str, Any]:
    """Return what `gr.Blocks.launch` takes for the look."""
    assets = files("ui") / "assets"
    scripts = "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return {
        "theme": theme(),
        "css": "\n".join((assets / name).read_text(encoding="utf-8") for name in STYLES),
        "head": f"<script>{scripts}</script>",
        "footer_links": [],
    }
