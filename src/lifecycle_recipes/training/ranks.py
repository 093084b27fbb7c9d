"""A decision that all processes of a run make together."""


def true_anywhere(value: bool, args) -> bool:
    """Whether `value` is true on any rank. Collective; args: the TrainingArguments."""
    if args.world_size == 1:
        return value
    import torch

    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)
