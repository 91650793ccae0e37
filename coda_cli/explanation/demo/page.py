"""What visitors see, made with Gradio: a place for a file, the choice of network and classes, and the answer."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from coda_cli.errors import CodaError
from coda_cli.explanation.demo.answers import CLIP_RATE, CLIP_SECONDS, MOST_CLASSES, PAGE
from coda_cli.explanation.demo.desk import Desk
from coda_cli.explanation.demo.networks import Networks
from coda_cli.explanation.demo.visits import Visits
from coda_cli.machine import budget

PAGES = "answers"  # the address of the pages about answers, beside that of the page itself
STYLE = """
.coda-report {width: 100%; height: min(48rem, 92vh); border: 1px solid var(--border-color-primary); border-radius: 4px}
.coda-head h1 {font-size: 1.5rem; margin: 0 0 .2rem} .coda-head p {margin: 0; max-width: 60rem}
.coda-said {margin: 0; overflow-wrap: anywhere} .coda-said + .coda-said {margin-top: .4rem}
.coda-refused {border-left: 4px solid var(--error-border-color, #b4141e); padding-left: .6rem}
.coda-files button {display: none}
.coda-waiting {border: 1px dashed var(--border-color-primary); padding: 4rem 1rem; text-align: center}
@media (max-width: 700px) {.coda-report {height: 60rem}}
"""
_HEAD = f"""
<div class="coda-head"><h1>coda</h1>
<p>Drop a picture or a short clip. A network says what it sees, and its logit is split exactly into contributions: red
speaks for the class, blue against it. Of a clip, the first {CLIP_SECONDS} seconds are explained, {CLIP_RATE} frames a
second. Your files are removed when you leave the page.</p></div>
"""
_WAITING = '<div class="coda-waiting">The explanation appears here.</div>'


def page_of(networks: Networks, visits: Visits, desk: Desk) -> Any:
    """Make the page.

    Args:
        networks: what visitors may choose; the first of them is chosen when they come.
        visits: their files.
        desk: what answers them.

    Returns:
        Gradio's blocks.
    """
    first = networks.names[0]
    with gr.Blocks(title="coda", analytics_enabled=False) as blocks:
        gr.HTML(_HEAD)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                upload = gr.File(label="A picture or a short clip", height=150)
                network = gr.Dropdown(list(networks.names), value=first, label="Network")
                classes = gr.Dropdown(
                    desk.classes(first),
                    value=[],
                    multiselect=True,
                    max_choices=MOST_CLASSES,
                    label="Classes",
                    info="Choose none for the class that the network predicts.",
                )
                button = gr.Button("Explain", variant="primary")
                said = gr.HTML()
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(_WAITING)
                files = gr.File(
                    label="Files to download",
                    file_count="multiple",
                    interactive=False,
                    visible=False,
                    elem_classes="coda-files",
                )
        listen = _Listener(visits, desk)
        asked = {"api_visibility": "private", "concurrency_id": "coda", "concurrency_limit": 1}
        gr.on(
            [upload.upload, button.click],
            listen.explain,
            [upload, network, classes],
            [said, shown, files],
            show_progress_on=shown,
            **asked,
        )
        network.change(listen.choose, network, [classes, said], show_progress="hidden", **asked)
        upload.clear(listen.clear, None, [said, shown, files], api_visibility="private", show_progress="hidden")
        blocks.unload(listen.unload)
    return blocks.queue(max_size=budget.DEMO_WAITING, api_open=False)


class _Listener:
    """What happens when a visitor does something."""

    def __init__(self, visits: Visits, desk: Desk) -> None:
        self._visits, self._desk = visits, desk

    def explain(
        self,
        upload: str | None,
        network: str,
        classes: list[int] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by this default Gradio knows that it is wanted)
    ) -> tuple[str, str, Any]:
        """Explain what was uploaded.

        Args:
            upload: the path of the file; None where nothing was dropped yet.
            network: its name.
            classes: indices of the classes to explain; none is the predicted class.
            request: tells the visitor.
            progress: shows how many frames of a clip are done.

        Returns:
            What is said, as HTML; what is shown, as HTML; and the element with the files.
        """
        if upload is None:
            return _refused("drop a picture or a clip first"), _WAITING, gr.File(visible=False)
        most = CLIP_SECONDS * CLIP_RATE
        answer = self._desk.answer(
            str(request.session_hash),
            Path(upload),
            network,
            classes or (),
            lambda n: progress((n, most), desc="frames") if n else None,
        )
        if isinstance(answer, str):
            return _refused(answer), _WAITING, gr.File(visible=False)
        # The page is of this machine, but holds what visitors sent: it gets no rights of the page around it.
        frame = (
            f'<iframe class="coda-report" title="The explanation" sandbox="allow-scripts" '
            f'src="{PAGES}/{answer.page.parent.name}/{PAGE}#1"></iframe>'
        )
        said = "".join(f'<p class="coda-said" role="status">{html.escape(line)}</p>' for line in answer.said)
        return said, frame, gr.File([str(path) for path in answer.files], visible=True)

    def choose(self, network: str) -> tuple[Any, str]:
        """Offer the classes of another network.

        Args:
            network: its name.

        Returns:
            The element with its classes, and what is said, as HTML: why it cannot be loaded, or nothing.
        """
        try:
            return gr.Dropdown(self._desk.classes(network), value=[]), ""
        except CodaError as error:
            return gr.Dropdown([], value=[]), _refused(str(error))

    def clear(self, request: gr.Request) -> tuple[str, str, Any]:
        """Forget an upload that its sender took away.

        Args:
            request: tells the visitor.

        Returns:
            What is said and what is shown, as HTML, and the element with the files, which holds none.
        """
        self._visits.end(str(request.session_hash))
        return "", _WAITING, gr.File(visible=False)

    def unload(self, request: gr.Request) -> None:
        """Forget a visitor who closed the page.

        Args:
            request: tells the visitor.
        """
        self._visits.leave(str(request.session_hash))


def _refused(why: str) -> str:
    """A sentence that says why there is no answer."""
    return f'<p class="coda-said coda-refused" role="alert">{html.escape(why)}</p>'
