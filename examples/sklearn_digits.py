"""A fitted scikit-learn classifier, quantized with one call: its own code multiplies integers from then on.

pip install '.[demo]'
python examples/sklearn_digits.py
"""

import pickle

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import octavo as oc

x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x / 16, y, random_state=0)
classifier = MLPClassifier((256, 128), max_iter=100, random_state=0).fit(x_train, y_train)
quantized = oc.quantize_dynamic(classifier, x=x_train, report=print)

# What only training needs (Adam's moments, twice the size of the weights) is dropped, and the report says so.
print(f"{'':12} {'accuracy':>9} {'bytes, pickled':>15}")
for name, model in {"float": classifier, "int8": quantized}.items():
    print(f"{name:12} {model.score(x_test, y_test):9.2%} {len(pickle.dumps(model)):15,}")
