"""Log-likelihoods of given tokens after given tokens. What several texts begin with is computed once: the choices of a
question share its context, and all questions their examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.backbone import Backbone
from alignment.batch import PART, pad
from alignment.flight import Usage
from alignment.prefix_tree import knows, shared, walk

ROWS = 16  # of a padded batch


class Likelihood(NamedTuple):
    """Log-probabilities in nats of each token, and whether every one of them is the most probable there."""

    logprobs: list[float]
    greedy: bool

    @property
    def total(self) -> float:
        return sum(self.logprobs)


def likelihoods(
    backbone: Backbone, rows: Sequence[Sequence[int]], starts: Sequence[int], usage: Usage
) -> list[Likelihood]:
    """Of each row of ids its tokens from place ``start`` (at least 1) on, under the role that is entered; ``usage``
    counts what went through the model. Sums are taken in float32. Raises ValueError for a start of 0: the first token
    follows nothing."""
    if any(start < 1 for start in starts):
        raise ValueError("the first token of a row has no likelihood; put a token before it")
    wanted = list(zip(map(tuple, rows), starts, strict=True))
    first: dict[tuple[int, ...], int] = {}
    for row, start in wanted:
        first[row] = min(start, first.get(row, start))
    with torch.no_grad():
        # virtual tokens stand before every row, which the backbone's own forward knows
        read = _tree if knows(backbone) and not backbone.virtual else _padded
        found = read(backbone, first, usage) if first else {}
    return [
        Likelihood(logp[start - first[row] :], all(greedy[start - first[row] :]))
        for row, start in wanted
        for logp, greedy in [found[row]]
    ]


Found = dict[tuple[int, ...], tuple[list[float], list[bool]]]


def _tree(backbone: Backbone, first: dict[tuple[int, ...], int], usage: Usage) -> Found:
    """Nodes are numbered in the order of the walk. A token's probability is read where its parent is; of parents in
    earlier chunks the states are carried as long as a child is to come."""
    parents, nodes = _nodes(first)
    tokens: list[int] = []
    last_child: dict[int, int] = {}
    wanted = sorted({node for own in nodes.values() for node in own})
    for node in wanted:
        last_child[parents[node]] = node
    logp, greedy = [0.0] * len(parents), [False] * len(parents)
    carried: dict[int, Tensor] = {}
    done = 0  # of ``wanted``
    for chunk, hidden in walk(backbone, list(first)):
        begin = len(tokens)
        tokens += chunk.ids
        usage.scored += len(chunk.ids)
        here = []
        while done < len(wanted) and wanted[done] < len(tokens):
            here.append(wanted[done])
            done += 1
        if here:
            before = [parents[node] for node in here]
            states = torch.stack([hidden[p - begin] if p >= begin else carried[p] for p in before])
            values, best = _measured(backbone, states, [tokens[node] for node in here])
            for node, value, is_best in zip(here, values, best, strict=True):
                logp[node], greedy[node] = value, is_best
        new = {node: hidden[node - begin] for node in range(begin, len(tokens)) if node in last_child}
        carried = {node: state for node, state in (carried | new).items() if last_child[node] >= len(tokens)}
    return {row: ([logp[n] for n in own], [greedy[n] for n in own]) for row, own in nodes.items()}


def _nodes(first: dict[tuple[int, ...], int]) -> tuple[list[int], dict[tuple[int, ...], list[int]]]:
    """The parent of every node, in the order of ``prefix_tree.chunks``, and each row's nodes from its start on."""
    parents: list[int] = []
    nodes = {}
    path: list[int] = []
    before: tuple[int, ...] = ()
    for row in sorted(first):
        del path[shared(before, row) :]
        while len(path) < len(row):
            parents.append(path[-1] if path else -1)
            path.append(len(parents) - 1)
        nodes[row] = path[first[row] :]
        before = row
    return parents, nodes


def _padded(backbone: Backbone, first: dict[tuple[int, ...], int], usage: Usage) -> Found:
    """For any model: rows of like length together."""
    found: Found = {}
    rows = sorted(first, key=len)
    for start in range(0, len(rows), ROWS):
        batch = rows[start : start + ROWS]
        ids, mask = pad(batch, backbone.chat.pad_id)
        usage.scored += int(mask.sum())
        hidden = backbone.hidden(ids, mask).last_hidden_state
        for row, own in zip(batch, hidden, strict=True):
            found[row] = _measured(backbone, own[first[row] - 1 : len(row) - 1], row[first[row] :])
    return found


def _measured(backbone: Backbone, states: Tensor, targets: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Log-probabilities of ``targets`` after the states [N, H], and whether each is the most probable."""
    logp: list[float] = []
    greedy: list[bool] = []
    for part, ids in zip(states.split(PART), torch.tensor(targets, device=states.device).split(PART), strict=True):
        scores = backbone.logits(part).float().log_softmax(-1)
        logp += scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1).tolist()
        greedy += (scores.argmax(-1) == ids).tolist()
    return logp, greedy
