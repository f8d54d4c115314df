"""The Data tab's components, laid out: the list and what adds to it left, one data set right."""

from dataclasses import dataclass

import gradio as gr

from ui.compare.cards import Status, render_status
from ui.data.actions import COLUMN_NAMES, ONLY
from ui.data.cards import EMPTY
from ui.html import plain_html

IDLE = Status("idle", "", "Every picture is decoded once; rows that can't be used are listed.")
UPLOAD_HELP = (
    "<p class='help'>A zip with pictures and a table, <code>metadata.jsonl</code> or "
    "<code>.csv</code> (prompt, chosen_file_name, rejected_file_name), or a parquet file with the "
    "pictures inside. A folder on this machine is imported from its command line: "
    "<code>python -m training import FOLDER</code></p>"
)
HUB_HELP = (
    "<p class='help'>The preview fetches the first rows only, the import as many pairs as you say."
    "</p>"
)
ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const card = button.closest('.pair');
  const field = card.querySelector('textarea');
  const act = button.dataset.act;
  if (act === 'edit' || act === 'cancel') {
    card.classList.toggle('editing', act === 'edit');
    if (act === 'edit') field.focus(); else field.value = field.defaultValue;
    return;
  }
  trigger('click', {action: act, row: Number(card.dataset.row), prompt: field.value});
});
"""
_LABELS = {
    "prompt_column": "Prompt",
    "preferred_column": "Preferred picture",
    "dispreferred_column": "Other picture",
    "first_label": "Score of the first",
    "second_label": "Score of the second",
}


@dataclass(frozen=True)
class AddForm:
    """What adds a data set."""

    file: gr.File
    repo_id: gr.Textbox
    split: gr.Textbox
    max_pairs: gr.Number
    name: gr.Textbox
    columns: dict[str, gr.Dropdown]
    columns_box: gr.Accordion
    upload: gr.Button
    preview: gr.Button
    fetch: gr.Button
    stop: gr.Button
    status: gr.HTML
    previewed: gr.HTML


@dataclass(frozen=True)
class DatasetView:
    """What shows one data set and changes it."""

    panel: gr.Column
    empty: gr.HTML
    head: gr.HTML
    only: gr.Radio
    undo: gr.Button
    drop_shown: gr.Button
    check: gr.Button
    export: gr.Button
    download: gr.DownloadButton
    checked: gr.HTML
    grid: gr.HTML
    back: gr.Button
    place: gr.HTML
    on: gr.Button
    repo_id: gr.Textbox
    private: gr.Checkbox
    push: gr.Button
    pushed: gr.HTML
    delete: gr.Button
    sure: gr.Row
    yes: gr.Button
    no: gr.Button


def build_add_form() -> AddForm:
    """Lay out the upload, the Hub, and what both need."""
    name = gr.Textbox(label="Name", placeholder="Empty: as the file is called", max_lines=1)
    with gr.Tabs(elem_classes="add-tabs"):
        with gr.Tab("Upload", id="upload"):
            file = gr.File(
                label="Zip or parquet",
                show_label=False,
                file_types=[".zip", ".parquet"],
                height=132,
                elem_id="chats-data-file",
            )
            plain_html(UPLOAD_HELP)
            upload = gr.Button("Import", variant="primary", elem_id="chats-import")
        with gr.Tab("From the Hub", id="hub"):
            repo_id = gr.Textbox(label="Data set", placeholder="owner/name", max_lines=1)
            with gr.Row(elem_classes="pair-of-fields"):
                split = gr.Textbox("train", label="Split", max_lines=1, min_width=80)
                max_pairs = gr.Number(1000, precision=0, label="At most pairs", min_width=80)
            plain_html(HUB_HELP)
            with gr.Row(elem_classes="pair-of-fields"):
                preview = gr.Button("Preview", elem_id="chats-preview", min_width=80)
                fetch = gr.Button("Import", variant="primary", min_width=80)
    with gr.Accordion("Columns", open=False, elem_classes="advanced") as columns_box:
        plain_html("<p class='help'>Only for tables that are not recognised.</p>")
        columns = {
            name: gr.Dropdown(
                [], value=None, label=_LABELS[name], allow_custom_value=True, interactive=True
            )
            for name in COLUMN_NAMES
        }
    status = plain_html(render_status(IDLE), elem_id="chats-data-status")
    stop = gr.Button("Stop", variant="stop", size="sm", visible=False, elem_id="chats-data-stop")
    return AddForm(
        file=file,
        repo_id=repo_id,
        split=split,
        max_pairs=max_pairs,
        name=name,
        columns=columns,
        columns_box=columns_box,
        upload=upload,
        preview=preview,
        fetch=fetch,
        stop=stop,
        status=status,
        previewed=plain_html("", elem_classes="previewed"),
    )


def build_view() -> DatasetView:
    """Lay out one data set: what it is, its pairs, and what can be done with it."""
    empty = plain_html(EMPTY)
    with gr.Column(visible=False, elem_classes="dataset") as panel:
        head = plain_html("", elem_id="chats-data-head")
        with gr.Row(elem_classes="tools"):
            only = gr.Radio(
                [(name.capitalize(), name) for name in ONLY],
                value=ONLY[0],
                label="Rows shown",
                show_label=False,
                container=False,
                elem_classes="filter",
            )
            drop_shown = gr.Button("Drop all shown", size="sm", visible=False, min_width=0)
            undo = gr.Button("Undo", size="sm", min_width=0, elem_id="chats-undo")
            check = gr.Button("Check again", size="sm", min_width=0)
            export = gr.Button("Export zip", size="sm", min_width=0, elem_id="chats-export")
            download = gr.DownloadButton("Download", visible="hidden", elem_id="chats-zip")
        checked = plain_html("", elem_id="chats-data-checked")
        grid = gr.HTML("", elem_id="chats-pairs", js_on_load=ON_LOAD, apply_default_css=False)
        with gr.Row(elem_classes="pager"):
            back = gr.Button("Back", size="sm", min_width=0)
            place = plain_html("", elem_id="chats-place")
            on = gr.Button("Next", size="sm", min_width=0, elem_id="chats-next")
        with gr.Accordion("Push to the Hub", open=False, elem_classes="advanced"):
            with gr.Row(elem_classes="push"):
                repo_id = gr.Textbox(label="Repository", placeholder="owner/name", max_lines=1)
                private = gr.Checkbox(True, label="Private", container=False, min_width=80)
                push = gr.Button("Push", size="sm", min_width=80)
            plain_html(
                "<p class='help'>With the account that this machine is logged in with. What was "
                "edited out is not uploaded.</p>"
            )
            pushed = plain_html("")
        delete = gr.Button("Delete…", size="sm", min_width=0, elem_classes="delete")
        with gr.Row(visible=False, elem_classes="sure") as sure:
            plain_html("<p>Its pictures, edits and report go for good.</p>")
            yes = gr.Button("Delete", variant="stop", size="sm", min_width=0, elem_id="chats-yes")
            no = gr.Button("Keep", size="sm", min_width=0)
    return DatasetView(
        panel=panel,
        empty=empty,
        head=head,
        only=only,
        undo=undo,
        drop_shown=drop_shown,
        check=check,
        export=export,
        download=download,
        checked=checked,
        grid=grid,
        back=back,
        place=place,
        on=on,
        repo_id=repo_id,
        private=private,
        push=push,
        pushed=pushed,
        delete=delete,
        sure=sure,
        yes=yes,
        no=no,
    )
