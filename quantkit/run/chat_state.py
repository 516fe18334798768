"""The state of a chat at the terminal: model, settings, conversation and screen."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.run.generation_stats import GenerationStats
from quantkit.run.screen import Screen
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings, check_system
from quantkit.run.tool_file import Tools
from quantkit.run.transcript import Conversation


class ChatState:
    """The state that the commands of a chat read and change.

    Attributes:
        model: the model that answers.
        settings: how it answers.
        initial: how it answered at the beginning.
        conversation: the messages so far.
        origins: where its parameters come from, see :func:`~quantkit.run.set_command.origins`.
        screen: shows answers and notices.
        last: statistics of the last answer in this conversation, None before the first.
        tools: the tools that the model may call.
        slow: whether it was said that the model is slow.
        rates: whether tokens and speed follow each answer.
        unfinished: the last question and the thought about it, if the answer was cut off before its text began.
    """

    def __init__(
        self,
        model: ChatModel,
        settings: Settings,
        conversation: Conversation,
        screen: Screen,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a conversation.

        Args:
            model: the model that answers.
            settings: how it answers.
            conversation: the messages so far; new turns are added to it.
            screen: shows answers and notices.
            origins: where the settings come from, None for defaults.

        Raises:
            ChatFormatError: the model has no chat template, or the template rejects the system prompt.
        """
        self.model = model
        self.settings = self.initial = settings
        self.conversation = conversation
        self.screen = screen
        self.origins = origins or {}
        self.last: GenerationStats | None = None
        self.tools: Tools = ()
        self.slow = False
        self.rates = screen.lively
        self.unfinished: tuple[str, str] | None = None
        check_system(model, conversation.system)

    def begin(self, conversation: Conversation) -> None:
        """Switch to another conversation."""
        self.conversation, self.last, self.unfinished = conversation, None, None
