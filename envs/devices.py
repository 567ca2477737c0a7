"""Training on one machine or several: processes that share games and minibatches, minibatches in pieces, bfloat16, and
gradient checkpointing. torch is imported in functions only.

`torchrun --nproc_per_node N algos/X.py` starts N processes. All of them hold all the games and draw the same
minibatches. Each plays every Nth game and computes the gradients of every Nth game of a minibatch. Games are then
gathered and gradients summed, so all processes keep the same weights. Only the first one writes files and prints
progress. In bfloat16, a rounded copy of the model plays; losses compare probabilities of the model itself.
"""

import copy
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

RANK = int(os.environ.get("RANK", 0))  # this process's number
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # how many there are


def join_processes(args: Any) -> None:
    """Meet the other processes that torchrun has started, if it has. On cuda, each takes a GPU of its own.

    Exits with a sentence if all were to share one GPU.
    """
    if WORLD_SIZE > 1:
        import torch

        if args.device.startswith("cuda:"):
            sys.exit("--device: with several processes `cuda`, of which each takes one, not " + args.device)
        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if args.device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(hours=2))  # a game may be a server's


def sum_over_processes(tensors: Iterable[Any]) -> None:
    """Replace each tensor by its sum over all processes."""
    if WORLD_SIZE > 1:
        import torch

        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def gather(items: list[Any], classes: tuple[type, ...], args: Any) -> list[Any]:
    """The items of all processes in turn: item i is from process i % WORLD_SIZE. They travel as JSON."""
    if WORLD_SIZE == 1:
        return items
    import torch

    text = to_json(items).encode()
    sizes = torch.zeros(WORLD_SIZE, dtype=torch.int64, device=args.device)
    sizes[RANK] = len(text)
    sum_over_processes([sizes])
    texts = torch.zeros(WORLD_SIZE, int(sizes.max()), dtype=torch.uint8, device=args.device)
    texts[RANK, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    sum_over_processes([texts])
    found = [from_json(row.tobytes().rstrip(b"\0"), classes) for row in texts.cpu().numpy()]
    return [found[i % WORLD_SIZE][i // WORLD_SIZE] for i in range(sum(map(len, found)))]


def to_json(items: list[Any]) -> str:
    """The items as JSON, in which an object is its fields and the name of its class."""
    return json.dumps(items, default=lambda item: {"class": type(item).__name__, **vars(item)})


def from_json(text: str | bytes, classes: tuple[type, ...]) -> list[Any]:
    """The items that `to_json` wrote; objects of other classes than these are an error."""
    by_name = {one.__name__: one for one in classes}

    def remake(fields: dict[str, Any]) -> Any:
        item = object.__new__(by_name[fields.pop("class")])
        vars(item).update(fields)
        return item

    return json.loads(text, object_hook=remake)


def pieces(indices: Any, sizes: list[int], args: Any) -> Iterator[tuple[Any, float]]:
    """This process's games of a minibatch, `micro_batch_size` at a time, and the share of the minibatch that they are.

    By `sizes`: how many tokens or turns each game adds to a mean. The shares of all processes add up to 1. Games
    of like size come together, which saves padding; the gradient, a sum over the pieces, stays the same.
    """
    own = sorted(indices[RANK::WORLD_SIZE], key=sizes.__getitem__)
    size = args.micro_batch_size or len(indices)
    total = sum(sizes[i] for i in indices)
    for start in range(0, len(own), size):
        piece = own[start : start + size]
        yield piece, sum(sizes[i] for i in piece) / total
    if len(own) == 0:  # it needs gradients to sum as well: zeros
        yield indices[:1], 0.0


def own_pieces(number: int, args: Any) -> Iterator[range]:
    """This process's games of `number`, as many at a time as in `pieces`, to be computed without gradients."""
    own = range(RANK, number, WORLD_SIZE)
    size = args.micro_batch_size or math.ceil(args.minibatch_size / WORLD_SIZE)
    for start in range(0, len(own), size):
        yield own[start : start + size]


def precision(args: Any) -> Any:
    """The context for the loss: in bfloat16, matrix products are computed in it; weights stay in float32."""
    import torch

    return torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.dtype == "bfloat16")


def checkpoint_gradients(args: Any, *trunks: Any) -> None:
    """With `--gradient-checkpointing`, let layers be computed again in the backward pass, which needs less memory."""
    if args.gradient_checkpointing:
        from torch.utils.checkpoint import checkpoint
        from transformers.modeling_layers import GradientCheckpointingLayer

        for layer in (module for trunk in trunks for module in trunk.modules()):
            if isinstance(layer, GradientCheckpointingLayer):  # its own switch would turn dropout on
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def copy_to_play(model: Any, args: Any) -> Any:
    """The model that plays: a bfloat16 copy, or in float32 the model itself."""
    import torch

    if args.dtype != "bfloat16":
        return model
    player = copy.deepcopy(model)
    for parameter in player.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)  # not the buffers: positions need more than 8 bits
    return player


def refresh(player: Any, model: Any) -> None:
    """Copy the learned weights into the model that plays."""
    for parameter, learned in zip(player.parameters(), model.parameters(), strict=True):
        parameter.data.copy_(learned.data)
