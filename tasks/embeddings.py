"""Embeddings: which tokens stand near each other in the training prompts -> where the embeddings of a model from scratch begin.

Positive pointwise mutual information of neighbours, factored: about what word2vec learns, without its steps (Levy and Goldberg 2014,
"Neural word embedding as implicit matrix factorization"). data/kinds.md tells what it gains.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.batching import TokenRows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WINDOW = 5  # tokens on each side that are neighbours; one that is n places away counts 1/n
MOST_ROWS = 50_000  # that are counted
ROWS_AT_ONCE = 2_000
SMOOTHING = 0.75  # power of how often a neighbour stands anywhere: else rare ones would say most
SPREAD = 0.02  # standard deviation, as transformers begins with
Vectors = np.ndarray[Any, np.dtype[Any]]


def neighbourly(rows: TokenRows, vocabulary: int, width: int, seed: int) -> tuple[Vectors, Vectors]:
    """Tokens that have neighbours in the prompts, and a vector for each of them: alike where the neighbours are.

    Args:
        vocabulary: tokens of the tokenizer.
        width: of the vectors.

    Returns:
        Ids (tokens,), int; vectors (tokens, width), float32, with standard deviation SPREAD. Both are empty where there are too few.
    """
    from sklearn.utils.extmath import randomized_svd

    counts = _counted(rows, vocabulary)
    ids = np.flatnonzero(counts.sum(axis=1))
    if len(ids) <= width:
        return ids[:0], np.zeros((0, width), np.float32)
    left, strengths, _ = randomized_svd(_informing(counts[ids][:, ids]), width, n_iter=4, random_state=seed)
    vectors = (left * np.sqrt(strengths)).astype(np.float32)
    return ids, vectors * np.float32(SPREAD / max(1e-12, float(vectors.std())))


def _counted(rows: TokenRows, vocabulary: int) -> "csr_array":
    """How often tokens stand near each other (vocabulary, vocabulary), the nearer the more."""
    from scipy.sparse import coo_array, csr_array

    found = csr_array((vocabulary, vocabulary), dtype=np.float64)
    chosen = np.arange(len(rows)) if len(rows) <= MOST_ROWS else np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int)
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        prompts = [row.input_ids[: row.prompt_tokens] for row in rows.rows(chosen[start : start + ROWS_AT_ONCE])]
        tokens = np.fromiter((token for prompt in prompts for token in prompt), np.int64)
        of = np.repeat(np.arange(len(prompts)), [len(prompt) for prompt in prompts])
        for distance in range(1, WINDOW + 1):
            together = of[distance:] == of[:-distance]
            pair = tokens[:-distance][together], tokens[distance:][together]
            found += coo_array((np.full(len(pair[0]), 1 / distance), pair), shape=found.shape).tocsr()
    return csr_array(found + found.T)


def _informing(counts: "csr_array") -> "csr_array":
    """Positive pointwise mutual information of each pair: how much more often than by chance they stand together, nats."""
    near = counts.sum(axis=1)
    anywhere = near**SMOOTHING / (near**SMOOTHING).sum()
    found = counts.tocoo()
    found.data = np.maximum(0.0, np.log(found.data / near[found.row] / anywhere[found.col]))
    return found.tocsr()
