"""Small float layers, for models that have none of their own. autograd differentiates all but the recurrent ones."""

from octavo._util.pickling import as_of
from octavo.nn._layers import Embedding, Linear, ReLU, Sequential, Sigmoid
from octavo.nn._recurrent import GRU, LSTM

__all__ = ["GRU", "LSTM", "Embedding", "Linear", "ReLU", "Sequential", "Sigmoid"]

for _layer in (GRU, LSTM, Embedding, Linear, ReLU, Sequential, Sigmoid):
    as_of(_layer, "octavo.nn")
