"""What a conversation at the terminal is made of: the model, its settings, what was said, and the screen."""

from __future__ import annotations

from quantkit.run.screen import Screen
from quantkit.run.session import ChatModel, GenerationStats
from quantkit.run.settings import Settings, check_system
from quantkit.run.transcript import Conversation


class ChatState:
    """The state that the commands of a chat read and change.

    Attributes:
        model: the model that answers.
        settings: how it answers.
        initial: how it answered at the beginning.
        conversation: what was said.
        screen: where answers and notices go.
        last: how the last answer of this conversation went, None before the first.
    """

    def __init__(self, model: ChatModel, settings: Settings, conversation: Conversation, screen: Screen) -> None:
        """Prepare a conversation.

        Args:
            model: the model that answers.
            settings: how it answers.
            conversation: what was said before; the turns are added to it.
            screen: where answers and notices go.

        Raises:
            ChatFormatError: the model has no chat template, or it refuses the system prompt.
        """
        self.model = model
        self.settings = self.initial = settings
        self.conversation = conversation
        self.screen = screen
        self.last: GenerationStats | None = None
        check_system(model, conversation.system)

    def begin(self, conversation: Conversation) -> None:
        """Go on with another conversation."""
        self.conversation, self.last = conversation, None
