"""The Hub's repository of a stage with `push_to_hub`, before its first step: private as asked, and with its branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..finding import FAILED, REFUSED, Refusal, refuse
from ..publish.hub_errors import hub_errors
from .ranks import true_anywhere

if TYPE_CHECKING:
    from transformers import Trainer


def prepare_hub_repository(trainer: Trainer) -> None:
    """Raises Refusal, on every rank: repo-public, no-hub-token; push-failed with status 1. Collective.

    Upstream has created the repository, or taken one that exists, whoever may read it. It pushes to `hub_revision`
    without making that branch: the first push would fail, after training.
    """
    args, refusal = trainer.args, None
    if not args.push_to_hub:
        return
    if trainer.is_world_process_zero():
        try:
            _prepare(trainer)
        except Refusal as error:
            refusal = error
    refused = true_anywhere(refusal is not None, args)
    failed = true_anywhere(refusal is not None and refusal.status == FAILED, args)
    if refused:
        message, fix = "the Hub's repository cannot be used", "see the message of rank 0"
        raise refusal or refuse("push-failed", message, fix, status=FAILED if failed else REFUSED)


def _prepare(trainer: Trainer) -> None:
    from huggingface_hub import HfApi

    args, api, repo = trainer.args, HfApi(token=trainer.args.hub_token), trainer.hub_model_id
    with hub_errors(repo):
        if args.hub_private_repo and not api.repo_info(repo).private:
            fix = "set train.hub_private_repo: false, name another train.hub_model_id, or make it private"
            raise refuse("repo-public", "train.push_to_hub: this repository is public", fix, repo)
        if args.hub_revision:
            api.create_branch(repo, branch=args.hub_revision, exist_ok=True)
