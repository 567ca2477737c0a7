"""How training fits a machine, or several: processes that share the games and the minibatches, minibatches in pieces,
bfloat16, and layers that are computed twice. torch is imported in functions only.

`torchrun --nproc_per_node N algos/X.py` starts N processes. All of them know all games and draw the same minibatches.
Each plays every N-th game, and computes the gradients of every N-th game of a minibatch; games and gradients are then
brought together, so that all go on with the same weights. The first process alone writes and prints.
"""

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

RANK = int(os.environ.get("RANK", 0))  # this process's number
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # how many there are


def join_processes(args: Any) -> None:
    """Meet the other processes that torchrun has started, if it has. On cuda, each takes a GPU of its own."""
    if "RANK" in os.environ:
        import torch

        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if args.device.startswith("cuda") else "gloo")


def sum_over_processes(tensors: Iterable[Any]) -> None:
    """Replace each tensor by its sum over all processes."""
    if "RANK" in os.environ:
        import torch

        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def gather(items: list[Any], from_fields: Callable[[dict], Any], args: Any) -> list[Any]:
    """The items of all processes; the first is the first process's, the second the second's, and so on.

    They travel as JSON, in which an object is its fields; `from_fields` makes it again.
    """
    if WORLD_SIZE == 1:
        return items
    import torch

    text = json.dumps(items, default=vars).encode()
    sizes = torch.zeros(WORLD_SIZE, dtype=torch.int64, device=args.device)
    sizes[RANK] = len(text)
    sum_over_processes([sizes])
    texts = torch.zeros(WORLD_SIZE, int(sizes.max()), dtype=torch.uint8, device=args.device)
    texts[RANK, : len(text)] = torch.tensor(bytearray(text), device=args.device)
    sum_over_processes([texts])
    found = [json.loads(row.tobytes().rstrip(b"\0")) for row in texts.cpu().numpy()]
    return [from_fields(found[i % WORLD_SIZE][i // WORLD_SIZE]) for i in range(sum(map(len, found)))]


def pieces(indices: Any, sizes: list[int], args: Any) -> Iterator[tuple[Any, float]]:
    """This process's games of a minibatch, `micro_batch_size` at a time, and the share of the minibatch that they are.

    By `sizes`: of each game, the number of what losses are means over. The shares of all processes add up to 1.
    """
    own = indices[RANK::WORLD_SIZE]
    size = args.micro_batch_size or len(indices)
    total = sum(sizes[i] for i in indices)
    for start in range(0, len(own), size):
        piece = own[start : start + size]
        yield piece, sum(sizes[i] for i in piece) / total
    if len(own) == 0:  # it must have gradients as well, if only of weight 0
        yield indices[:1], 0.0


def own_pieces(number: int, args: Any) -> Iterator[range]:
    """This process's games of `number`, as many at a time as in `pieces`, to be computed without gradients."""
    own = range(RANK, number, WORLD_SIZE)
    size = args.micro_batch_size or args.minibatch_size
    for start in range(0, len(own), size):
        yield own[start : start + size]


def precision(args: Any) -> Any:
    """The context for the loss: in bfloat16, matrix products are computed in it; weights stay in float32."""
    import torch

    return torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.dtype == "bfloat16")


def checkpoint_gradients(args: Any, *trunks: Any) -> None:
    """With `--gradient-checkpointing`, let layers be computed again in the backward pass, which needs less memory."""
    for trunk in trunks if args.gradient_checkpointing else ():
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
        for module in trunk.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.training = True  # it acts in training only; what is inside, dropout too, stays as it is


def copy_to_play(model: Any, args: Any) -> Any:
    """What plays in place of a model that learns: a copy in bfloat16; in float32 the model itself, if it can."""
    import torch

    if args.dtype != "bfloat16" and not args.gradient_checkpointing:
        return model
    player = copy.deepcopy(model)
    for parameter in player.parameters() if args.dtype == "bfloat16" else ():
        parameter.data = parameter.data.to(torch.bfloat16)  # not the buffers: positions need more than 8 bits
    return player


def refresh(player: Any, model: Any) -> None:
    """Give what plays the weights of what learns, in place."""
    for parameter, learned in zip(player.parameters(), model.parameters(), strict=True):
        parameter.data.copy_(learned.data)
