"""Opens Dask's dashboard in a real, headless Chromium and waits until bars of tasks are drawn.

usage: dashboard.py URL SCREENSHOT

Chromium is driven by its DevTools protocol over tornado's websocket client, which is there
wherever Dask is. Prints how many bars there were, first and later.
"""

import asyncio
import base64
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from tornado.websocket import websocket_connect

DEADLINE = 90  # seconds for each thing that is waited for
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
    "--remote-debugging-port=0",
]

# Rows of the task stream's data, as Bokeh holds them in the page after they came by websocket.
BARS = """
(() => {
  let most = 0;
  for (const document of (window.Bokeh ? Bokeh.documents : []))
    for (const model of document._all_models.values())
      if (model.data && model.type === "ColumnDataSource") {
        const data = model.data instanceof Map ? Object.fromEntries(model.data) : model.data;
        if (data.worker_thread && data.duration) most = Math.max(most, data.duration.length);
      }
  return most;
})()
"""


class Page:
    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)

    async def call(self, method, **params):
        number = next(self.numbers)
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            text = await asyncio.wait_for(self.socket.read_message(), DEADLINE)
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, script):
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")

    async def wait(self, script, enough, what):
        value = None
        for _ in range(DEADLINE * 4):
            value = await self.value(script)
            if enough(value):
                return value
            await asyncio.sleep(0.25)
        raise SystemExit(f"not within {DEADLINE} s: {what} (last: {value!r})")


def port_of(folder, chromium):
    file = pathlib.Path(folder) / "DevToolsActivePort"
    for _ in range(DEADLINE * 10):
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        if chromium.poll() is not None:
            raise SystemExit(f"Chromium ended with {chromium.returncode}")
        import time

        time.sleep(0.1)
    raise SystemExit("Chromium did not start")


async def look(port, url, screenshot):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
    target = json.load(urllib.request.urlopen(request, timeout=DEADLINE))
    socket = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=64 << 20)
    page = Page(socket)
    await page.call("Page.enable")
    await page.call("Page.navigate", url=url)
    await page.wait("location.pathname", lambda p: p == "/status", "the status page")
    first = await page.wait(BARS, lambda n: n and n > 0, "bars of tasks")
    later = await page.wait(BARS, lambda n: n and n > first, "more bars while the computation runs")
    shapes = await page.value("document.querySelectorAll('*').length")
    image = base64.b64decode((await page.call("Page.captureScreenshot", format="png"))["data"])
    pathlib.Path(screenshot).write_bytes(image)
    print(json.dumps({"first": first, "later": later, "elements": shapes, "image": len(image)}))


def main():
    url, screenshot = sys.argv[1:]
    # Its children may write a little longer than it lives.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = ["chromium", *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        chromium = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(look(port_of(folder, chromium), url, screenshot))
        finally:
            chromium.terminate()
            chromium.wait(30)


if __name__ == "__main__":
    main()
