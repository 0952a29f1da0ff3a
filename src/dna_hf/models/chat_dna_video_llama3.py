"""Conversations as the DnA VideoLLaMA3 takes them: the template of the text, and the parts of messages."""

from collections.abc import Mapping
from typing import Any

from .processing_options import nearest
from .video_inputs import OWN_SETTINGS, PART, is_video


ROLES = ("system", "user", "assistant")
CONTENT_TYPES = ("text", "image", "image_url", "video")

# ChatML; what the assistant says and its end of turn are marked for `return_assistant_tokens_mask`
CHAT_TEMPLATE = """\
{%- macro written(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'image' -%}
                {{- '<|image_pad|>\\n' -}}
            {%- elif part.type == 'video' -%}
                {{- '<|video_pad|>\\n' -}}
            {%- else -%}
                {{- raise_exception('unknown type of content: ' ~ part.type) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}
            {{- written(message.content) + '<|im_end|>' -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- written(message.content) + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


# where transformers looks for what an image or a video is
SOURCES = {"image": ("image", "url", "path", "base64"), "video": ("video", "url", "path")}
MESSAGE_KEYS = ("role", "content")


def read_conversations(conversation: Any, own_template: bool) -> Any:
    """A conversation or a list of them as transformers takes them: each video with its own settings as one thing.

    `{"type": "video", "video": "a.mp4", "fps": 2, "start": 3}` becomes `{"type": "video", "video": {"path": "a.mp4",
    "fps": 2, "start": 3}}`, and the image of VideoLLaMA3's form, `{"image_path": "a.png"}`, its path.

    Args:
        conversation: list of messages, or list of such lists.
        own_template: whether it is laid out by `CHAT_TEMPLATE`, which uses a role and content of a message alone.

    Raises:
        ValueError: for a conversation that is none, an unknown role, type of content or name, or images and videos
            that are not the user's.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise ValueError(f"a conversation is a list of messages, got {conversation!r:.100}.")
    if isinstance(conversation[0], list | tuple):
        return [read_conversations(one, own_template) for one in conversation]
    return [_read_message(message, own_template) for message in conversation]


def _read_message(message: Any, own_template: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str | list | tuple):
        raise ValueError(f"a message has a role and content, text or a list of parts, got {message!r:.100}.")
    role, content = message.get("role"), message["content"]
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}: use one of {', '.join(ROLES)}.")
    if own_template:
        _check_keys("a message", message, MESSAGE_KEYS)
    if isinstance(content, str):
        return dict(message)
    return dict(message) | {"content": [_read_part(part, role) for part in content]}


def _read_part(part: Any, role: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in CONTENT_TYPES:
        raise ValueError(f"unknown content {part!r:.100}: use one of the types {', '.join(CONTENT_TYPES)}.")
    if kind != "text" and role != "user":
        raise ValueError(f"a message of the {role} holds {kind}: only those of the user may.")
    if kind == "text":
        _check_keys("content of the type text", part, ("type", "text"))
        if not isinstance(part.get("text"), str):
            raise ValueError(f"content of the type text needs a text, got {part!r:.100}.")
        return dict(part)
    if kind == "image_url":
        _check_keys("content of the type image_url", part, ("type", "image_url"))
        return dict(part)
    own = ("start", "end", "start_time", "end_time", *OWN_SETTINGS) if kind == "video" else ()
    _check_keys(f"content of the type {kind}", part, ("type", *SOURCES[kind], *own))
    found = [name for name in SOURCES[kind] if part.get(name) is not None]
    if len(found) > 1:
        raise ValueError(f"content of the type {kind} has {found[0]!r} and {found[1]!r}: give one of them.")
    if not found:
        return {"type": kind}
    what = part[found[0]]
    if kind == "image":
        return (
            {"type": kind, "image": _image_of(what)} if isinstance(what, Mapping) else {"type": kind, found[0]: what}
        )
    if is_video([what]):
        raise ValueError("a video has a list of frames, got one image: write it as an image.")
    settings = {name: part[name] for name in own if part.get(name) is not None}
    if settings:
        _check_apart(what, settings)
        what = dict(what if isinstance(what, Mapping) else {"path": what}) | settings
    return {"type": kind, "video": what}


def _check_keys(what: str, given: Mapping, known: tuple[str, ...]) -> None:
    for name, value in given.items():
        if value is not None and name not in known:
            raise ValueError(f"{what} has {', '.join(known)}, got {name!r}{nearest(name, known)}")


def _check_apart(video: Any, settings: dict[str, Any]) -> None:
    """What a video says itself must not be said beside it, by the same name or the other one."""
    said = {PART.get(name, name) for name in video} if isinstance(video, Mapping) else set()
    for name in settings:
        if PART.get(name, name) in said:
            raise ValueError(f"a video has {name!r} twice, in itself and beside it: give it once.")


def _image_of(image: Mapping) -> Any:
    _check_keys("an image", image, ("image_path",))
    if image.get("image_path") is None:
        raise ValueError(f"an image needs an image_path, got {image!r:.100}.")
    return image["image_path"]
