"""The length of generated sequences is one that the model runs on."""

from __future__ import annotations

import numpy as np
import pytest
from zoo_fixture import zoo_model

from graphrebase.errors import VerificationError
from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.runtime import Session, length_limit
from graphrebase.runtime.signature import sequence_length


def test_positions_that_begin_in_the_middle_of_their_table_leave_fewer() -> None:
    """OPT looks position 0 up in row 2; as many tokens as the table has rows do not run."""
    path = zoo_model("opt-ts17-sdpa").path
    session, graph = Session(path), build_graph(read_model(path))
    limit, length = length_limit(graph), sequence_length(session, graph)
    assert limit is not None and length == limit - 2

    def run(tokens: int) -> None:
        ids = np.ones((1, tokens), np.int64)
        session.run({"input_ids": ids, "attention_mask": ids})

    run(length)
    with pytest.raises(VerificationError):
        run(length + 1)
