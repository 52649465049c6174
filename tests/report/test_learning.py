from __future__ import annotations

import numpy as np
import pandas as pd

from forecast.report.learning import learning_curves


def history(members: int = 2, epochs: int = 8) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "member": np.repeat(np.arange(members), epochs),
            "epoch": np.tile(np.arange(epochs), members),
            "train_loss": random.uniform(1, 2, members * epochs),
            "validation_loss": random.uniform(1, 2, members * epochs),
        }
    )


def test_the_best_epoch_of_every_member_is_marked() -> None:
    table = history(members=5)
    figure = learning_curves(table, model="gru", unit="nats")
    stars = [trace for trace in figure.data if trace.name == "best epoch"]
    best = table.loc[table.groupby("member")["validation_loss"].idxmin()]
    assert [star.x[0] for star in stars] == best["epoch"].tolist()


def test_a_member_without_validation_loss_has_no_best_epoch() -> None:
    figure = learning_curves(
        history(members=1).assign(validation_loss=np.nan), model="rnn", unit="nats"
    )
    (star,) = (trace for trace in figure.data if trace.name == "best epoch")
    assert len(star.x) == 0
