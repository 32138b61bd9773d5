"""Where the numbers of a run go: a file of JSON lines, TensorBoard, Weights & Biases, MLflow."""

from vaejax.writers._base import Writer
from vaejax.writers.json_lines import JsonLines, read_json_lines
from vaejax.writers.several import Several
from vaejax.writers.tensorboard import TensorBoard
from vaejax.writers.trackers import MLflow, WeightsAndBiases

__all__ = ["JsonLines", "MLflow", "Several", "TensorBoard", "WeightsAndBiases", "Writer", "read_json_lines"]
