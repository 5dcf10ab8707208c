"""A provider that answers at once, or after a set time: `python -m benchmarks.mock DELAY_MS`. It prints its address."""

import asyncio
import contextlib
import sys

from aiohttp import web

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"mock-1","choices":[{"index":0,'
    b'"finish_reason":"stop","message":{"role":"assistant","refusal":null,"content":'
    b'"{\\"decision\\": \\"eligible\\", \\"rotation_window_days\\": 30, \\"source_line_ids\\": [\\"P-7\\"]}"}}],'
    b'"usage":{"prompt_tokens":458,"completion_tokens":21,"total_tokens":479}}'
)


async def main(delay: float) -> None:
    """Serve until killed."""

    async def complete(request: web.Request) -> web.Response:
        await request.read()
        if delay:
            await asyncio.sleep(delay)
        return web.Response(body=ANSWER, content_type="application/json")

    application = web.Application()
    application.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(float(sys.argv[1]) / 1000))
