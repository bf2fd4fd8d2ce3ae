"""The page, in Gradio, and its server. One video at a time; nothing is loaded from, or sent to, anywhere else."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response

from scripts.webapp.answers import MB, Answers
from scripts.webapp.steps import Changes, Parts, drop, hold, look_at

KEPT, SWEPT = 600, 60  # seconds that files are kept on the server at most, and between two looks
WAITING = 20  # videos in the queue
SHOWN = {  # kind of pictures: its title, and what a stranger sees there
    "masks": (
        "Masks",
        "In pre-training the model sees only a few small blocks of a video. The rest is hidden (grey), and the model "
        "learns to predict it.",
    ),
    "prototypes": (
        "Prototypes",
        "Pre-training has learnt a set of prototypes, and every block of the video belongs to one of them. A colour is "
        "a prototype; like blocks should have the same one.",
    ),
    "clusters": (
        "Clusters",
        "Blocks that are alike to the model are grouped, and every group has a colour (k-means on the features of this "
        "video). The colours themselves mean nothing.",
    ),
    "components": (
        "Principal components",
        "The three directions in which the features of this video differ most, as red, green and blue: blocks of like "
        "colours are alike to the model.",
    ),
    "attention": (
        "Attention",
        "How much every block adds to what the model says of the whole clip, from dark (little) to bright (much).",
    ),
}
# The browser refuses whatever the page, or a part of Gradio, would load from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
FONTS = ["system-ui", "sans-serif"]
CODE_FONTS = ["ui-monospace", "monospace"]
# Pictures are white in a dark page too, below Gradio's buttons. On a telephone sheets are moved sideways: text of a
# sheet as narrow as the screen could not be read.
# What Gradio says of a video that it refuses goes away after ten seconds: "Error" alone says nothing.
CSS = """
footer {display: none !important}
.picture {background: white !important}
.film, .sheet .image-frame {padding-top: 1.75rem !important}
.sheet .image-container {overflow-x: auto}
.sheet .image-container > button {justify-content: flex-start}
.sheet .image-frame {min-width: 960px}
#video .error::after {content: ": the video was not taken. This page takes LIMITS"}
"""


def build(answers: Answers, folder: Path) -> gr.Blocks:
    """The page.

    Args:
        folder: for files that last as long as a video is looked at.
    """
    with gr.Blocks(title="SIGMA", analytics_enabled=False, delete_cache=(SWEPT, KEPT)) as page:
        gr.Markdown(_introduction(answers))
        with gr.Row():
            video = gr.Video(
                sources=["upload", "webcam"], label="Drop or record a video", height=320, buttons=[], elem_id="video"
            )
            with gr.Column():
                state = gr.Markdown("No video yet.", elem_id="state")
                classes = gr.Label(label="Classes", num_top_classes=5, visible=False, elem_id="classes")
        parts = Parts(video, state, classes, {kind: _place(kind) for kind in answers.kinds})
        if answers.left_out:
            lines = "\n".join(f"- {line}" for line in answers.left_out)
            gr.Markdown(f"Not on this page, as the checkpoint does not have it:\n{lines}", elem_id="left_out")
        _connect(page, answers, folder, parts)
    page.queue(max_size=WAITING)
    return page


def _connect(page: gr.Blocks, answers: Answers, folder: Path, parts: Parts) -> None:
    """What happens when a video comes: it is taken at once, waits for its turn and is looked at.

    Of a visitor who leaves meanwhile it is deleted.
    """

    waiting: dict[str, tuple[str, str]] = {}  # videos by visitor, until their turn

    def take(upload: str | None, visitor: gr.Request) -> Changes:
        held, changes = hold(upload, folder, parts)
        if held is not None:
            waiting[str(visitor.session_hash)] = held
        return changes

    def turn(visitor: gr.Request) -> Iterator[Changes]:  # a generator by its looks: by them Gradio knows it
        yield from look_at(answers, waiting.pop(str(visitor.session_hash), None), folder, parts)

    def failed(visitor: gr.Request) -> Changes:
        leave(visitor)
        return parts.fail()

    def leave(visitor: gr.Request) -> None:
        drop(waiting.pop(str(visitor.session_hash), None))

    silent: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    came = [parts.video.upload, parts.video.stop_recording]
    taken = gr.on(came, take, inputs=[parts.video], outputs=parts.all, queue=False, **silent)
    looked_at = taken.then(turn, outputs=parts.all, concurrency_limit=1, **silent)
    looked_at.failure(failed, outputs=parts.all, queue=False, **silent)
    page.unload(leave)


def _introduction(answers: Answers) -> str:
    """What is shown, and what becomes of a video."""
    return "\n\n".join(
        [
            "# What a model sees in a video",
            f"Model: `{answers.subject.describe}`",
            f"Drop a video, or record one with the camera: {answers.limits.describe()}. The pictures are of "
            f"{answers.sampling.num_frames} frames around its middle. The video is deleted as soon as they are drawn, "
            f"the pictures after {KEPT // 60} minutes. Nothing is sent on from here.",
        ]
    )


def _place(kind: str) -> tuple[gr.Column, gr.Video, gr.Image]:
    """Where a kind of pictures is shown, once there is one."""
    title, explanation = SHOWN[kind]
    with gr.Column(visible=False, elem_id=kind) as column:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                gr.Markdown(f"## {title}\n{explanation}\n\nA film at half speed, and frames of it one after the other.")
            film = gr.Video(
                label=f"{title}, film",
                show_label=False,  # it would lie over the title in the picture
                autoplay=True,
                loop=True,
                interactive=False,
                buttons=["download"],
                elem_classes="picture film",
                min_width=320,
            )
        sheet = gr.Image(
            label=f"{title}, frames",
            show_label=False,
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_classes="picture sheet",
        )
    return column, film, sheet


class _Server(uvicorn.Server):
    """Ends without a word about the pages that are still open in browsers, whose connections it cuts off."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def serve(answers: Answers, listening: socket.socket) -> None:
    """Serve the page on a socket until Ctrl-C or SIGTERM; all files are deleted then.

    Raises:
        KeyboardInterrupt: one of these came.
    """
    with tempfile.TemporaryDirectory(prefix="sigma-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "gradio"))  # of uploads and of what is shown
        work = Path(folder, "work")
        work.mkdir()
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

        @app.middleware("http")
        async def with_policy(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["Content-Security-Policy"] = POLICY
            return response

        gr.mount_gradio_app(
            app,
            build(answers, work),
            path="/",
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=int(answers.limits.megabytes * MB),
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default(font=FONTS, font_mono=CODE_FONTS),
            css=CSS.replace("LIMITS", answers.limits.describe()),
        )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        _Server(config).run(sockets=[listening])
