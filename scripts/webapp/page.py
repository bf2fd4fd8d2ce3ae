"""The page, in Gradio, and its server. One video at a time; nothing is loaded from, or sent to, anywhere else."""

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response

from datasets.errors import DecodeError
from engine.errors import ConfigError, NonFiniteError
from scripts.webapp.answers import MB, Answers

REFUSALS = (ConfigError, DecodeError, NonFiniteError)  # that the page tells, as they are about the video
KEPT, SWEPT = 600, 60  # seconds that files are kept on the server at most, and between two looks
WAITING = 20  # videos in the queue
TITLES = {
    "masks": "Masks",
    "prototypes": "Prototypes",
    "clusters": "Clusters",
    "components": "Principal components",
    "attention": "Attention",
}
# The browser refuses whatever the page, or a part of Gradio, would load from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
FONTS = ["system-ui", "sans-serif"]
CODE_FONTS = ["ui-monospace", "monospace"]
CSS = ".sheet img {background: white} footer {display: none !important}"

Changes = dict[Any, Any]  # of the page: what a component shows from now on


def build(answers: Answers, folder: Path) -> gr.Blocks:
    """The page.

    Args:
        folder: for files that last as long as a video is looked at.
    """
    with gr.Blocks(title="SIGMA", analytics_enabled=False, delete_cache=(SWEPT, KEPT)) as page:
        gr.Markdown(_introduction(answers))
        with gr.Row():
            video = gr.Video(sources=["upload", "webcam"], label="Drop or record a video", height=320, buttons=[])
            with gr.Column():
                state = gr.Markdown("No video yet.", elem_id="state")
                classes = gr.Label(label="Classes", num_top_classes=5, visible=False, elem_id="classes")
        places = {kind: _place(kind) for kind in answers.kinds}
        parts = _Parts(video, state, classes, places)

        def look_at(path: str | None) -> Iterator[Changes]:  # a generator by its own look, by which Gradio knows it
            yield from _steps(answers, path, folder, parts)

        gr.on(
            [video.upload, video.stop_recording],
            look_at,
            inputs=[video],
            outputs=[video, state, classes, *(part for place in places.values() for part in place)],
            show_progress="hidden",
            concurrency_limit=1,
            api_visibility="private",
        )
    page.queue(max_size=WAITING)
    return page


def _introduction(answers: Answers) -> str:
    """What is shown, of what, and what is not."""
    lines = [
        "# What a checkpoint makes of a video",
        f"`{answers.subject.describe}`",
        f"A video of {answers.limits.describe()}. It is deleted as soon as it was looked at, the pictures after "
        f"{KEPT // 60} minutes. Nothing is sent from here to anywhere else.",
    ]
    if answers.left_out:
        lines.append("Left out of this page:\n" + "\n".join(f"- {line}" for line in answers.left_out))
    return "\n\n".join(lines)


def _place(kind: str) -> tuple[gr.Column, gr.Video, gr.Image]:
    """Where a kind of pictures is shown, once there is one."""
    with gr.Column(visible=False, elem_id=kind) as column:
        gr.Markdown(f"### {TITLES[kind]}")
        with gr.Row():
            film = gr.Video(
                label="film at half speed",
                show_label=False,  # it would lie over the title in the picture
                autoplay=True,
                loop=True,
                interactive=False,
                buttons=["download"],
            )
            sheet = gr.Image(
                label="sheet",
                show_label=False,
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_classes="sheet",
                scale=2,
                min_width=480,
            )
    return column, film, sheet


class _Parts:
    """The components that change."""

    def __init__(
        self,
        video: gr.Video,
        state: gr.Markdown,
        classes: gr.Label,
        places: Mapping[str, tuple[gr.Column, gr.Video, gr.Image]],
    ) -> None:
        self.video, self.state, self.classes, self.places = video, state, classes, places

    def say(self, text: str) -> Changes:
        """The line beside the video."""
        return {self.state: text}

    def clear(self) -> Changes:
        """Nothing of an earlier video is left."""
        shown: Changes = {self.classes: gr.update(value=None, visible=False)}
        for column, film, sheet in self.places.values():
            shown |= {column: gr.update(visible=False), film: None, sheet: None}
        return shown


def _steps(answers: Answers, upload: str | None, folder: Path, parts: _Parts) -> Iterator[Changes]:
    """What changes on the page, step by step; the upload is deleted at the end, whatever comes."""
    if upload is None:
        return
    path = Path(upload)
    try:
        yield parts.clear() | parts.say("Reading the video ...")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield from _looked_at(answers, path, Path(scratch), parts)
        yield parts.say("Done: the video was deleted.") | {parts.video: None}
    except REFUSALS as error:
        reason = error.reason if isinstance(error, DecodeError) else str(error)
        text = reason.replace(f"{path}: ", "").replace(str(path), "the video")
        yield parts.clear() | parts.say(f"**Not shown: {text}**") | {parts.video: None}
    except FileNotFoundError:
        yield parts.clear() | parts.say("**Not shown: the video is gone; drop it again**") | {parts.video: None}
    finally:
        path.unlink(missing_ok=True)


def _looked_at(answers: Answers, path: Path, scratch: Path, parts: _Parts) -> Iterator[Changes]:
    """Classes, then each kind of pictures."""
    answers.check(path)
    if answers.classifier is not None:
        yield parts.say("Looking for its classes ...")
        yield {parts.classes: gr.update(value=answers.classes(path), visible=True)}
    yield parts.say("Drawing ...")
    for picture in answers.pictures(path, scratch):
        column, film, sheet = parts.places[picture.kind]
        yield {column: gr.update(visible=True), film: str(picture.film), sheet: str(picture.sheet)}


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
            css=CSS,
        )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])
