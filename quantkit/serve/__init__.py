"""``quantkit serve``: an OpenAI-compatible API, and a chat page for the browser.

It uses the libraries of llama-cpp-python's server (Starlette, uvicorn, pydantic: the extra ``serve``), but not that
server's ``create_app``, because it would answer differently from ``quantkit chat``:

- its ``Llama`` compiles the model's chat template in the server's own process, and compiling already runs parts of it;
- it samples with a repeat penalty of 1.1, a fixed seed and its own penalty window unless the request sets them, and it
  cannot distinguish a missing parameter from one with the default value;
- with several stop sequences it cuts at the first in the list, not at the first in the answer;
- a second request aborts a first one that is being streamed, and an answer that is not streamed continues after its
  client has disconnected;
- any web page may read its answers (``Access-Control-Allow-Origin``).

So the protocol is that server's, which tests compare, and the answers are :class:`~quantkit.run.session.ChatModel`'s.
"""
