"""``quantkit serve``: a model behind OpenAI's interface, and a page to chat in the browser.

It stands on what llama-cpp-python's server does (Starlette, uvicorn, pydantic: the extra ``serve``). That server's own
``create_app`` is not run, for it would answer otherwise than ``quantkit chat`` does:

- its ``Llama`` compiles the model's chat template in the server's own process, and compiling already runs parts of it;
- it samples with a repeat penalty of 1.1, a fixed seed and a window of its own unless the request says otherwise, and a
  parameter that was left out cannot be told from its default;
- of several stop texts it cuts at the first in the list, not at the first in the answer;
- a second request breaks off a first one that is streamed, and an answer that is not streamed goes on when its client
  has left;
- its answers may be read by any web page (``Access-Control-Allow-Origin``).

So the protocol is that server's, held to it by tests, and the answers are :class:`~quantkit.run.session.ChatModel`'s.
"""
