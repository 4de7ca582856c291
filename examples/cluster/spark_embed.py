"""Embedding with PySpark's pandas UDF, on processes of this machine. Spark needs Java 17 and shows its own progress.

pip install pyspark pandas pyarrow
python examples/cluster/spark_embed.py [--small]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf
from work import Job, arguments, check, embed, job


def run(work: Job) -> list:
    folder = str(Path(__file__).parent)
    paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master(f"local[{work.workers}]")
        .config("spark.ui.showConsoleProgress", "true")
        .config("spark.executorEnv.PYTHONPATH", paths)
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 1)  # a task each
        .getOrCreate()
    )
    path = work.path

    @pandas_udf("binary")
    def embedded(tasks: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for series in tasks:
            yield pd.Series([embed(path, [ids.tolist() for ids in task]).tobytes() for task in series])

    frame = spark.createDataFrame(
        [(i, task) for i, task in enumerate(work.tasks)], "number int, task array<array<int>>"
    )
    rows = frame.repartition(len(work.tasks)).select("number", embedded("task").alias("y")).collect()
    spark.stop()
    found = {row["number"]: bytes(row["y"]) for row in rows}
    width = embed(work.path, work.tasks[0]).shape[1]
    return [np.frombuffer(found[i], np.float32).reshape(-1, width) for i in range(len(found))]


if __name__ == "__main__":
    with job(arguments(__doc__, kill=False)) as work:
        check(work, run(work), "PySpark")
