"""The tasks by name, and the class of each: a new one is a line here."""

from __future__ import annotations

TASKS = {
    "classify": "classify:Classify",
    "regress": "regress:Regress",
    "tag": "tag:Tag",
    "language": "language:Language",
    "chat": "chat:Chat",
    "reward": "reward:RewardModel",
    "translate": "translate:Translate",
    "rewrite": "rewrite:Rewrite",
    "parse": "parse:Parse",
    "caption": "caption:Caption",
    "write": "write_text:WriteText",
    "ask-image": "ask_image:AskImage",
    "answer-image": "answer_image:AnswerImage",
    "label-frames": "label_frames:LabelFrames",
}
# the same for sequences of numbers and for images, where another class does it
OF_KINDS = {
    "frames": {"tag": "tag_frames:FrameTag"},
    "image": {"classify": "classify_images:ClassifyImages"},
}
