"""Divide samples of several labels in two parts, so that every class is in both where that is possible."""

import numpy as np


def several_label_parts(
    vectors: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw a part of samples of several labels.

    The part is random but for two things: a class of at least two samples has one on either side, the rarest classes
    first; and no sample is drawn that is the last of a class on the other side, as long as there are others.

    Args:
        vectors: 1 for each class that a sample has, 0 for the others (samples, classes).
        count: samples of the second part, fewer than there are.
        random: generator of what is drawn.

    Returns:
        Numbers of the samples of the first and of the second part, shuffled; and the classes that have samples, but
        none in the second part.
    """
    has = vectors == 1
    order = random.permutation(len(has))
    left = has.sum(axis=0)
    total, drawn = left.copy(), np.zeros(len(has), dtype=bool)

    def draw(samples: np.ndarray, most: int) -> None:
        """Draw up to so many samples whose classes others have, too."""
        for sample in samples:
            if most == 0 or drawn.sum() == count:
                return
            if not drawn[sample] and (left[has[sample]] > 1).all():
                drawn[sample], most = True, most - 1
                left[has[sample]] -= 1

    for number in np.argsort(total, kind="stable"):
        if total[number] > 1 and not has[drawn, number].any():
            draw(order[has[order, number]], 1)
    draw(order, count)
    # what is missing, whatever classes it has
    rest = order[~drawn[order]]
    drawn[rest[: count - drawn.sum()]] = True
    lacking = np.flatnonzero((total > 0) & ~has[drawn].any(axis=0))
    return order[~drawn[order]], order[drawn[order]], lacking.tolist()
