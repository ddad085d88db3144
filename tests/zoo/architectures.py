"""Architectures by name, each with a function that builds a small plain model.

A model has the blocks of its architecture, with their kernels, activations, branches
and shuffles. It has few blocks and small inputs, because whether a network converts
does not depend on its size.
"""

from tests.zoo.applications import APPLICATIONS
from tests.zoo.attention import ATTENTION
from tests.zoo.collections import COLLECTIONS
from tests.zoo.features import FEATURES
from tests.zoo.images import IMAGES
from tests.zoo.pixels import PIXELS
from tests.zoo.sounds import SOUNDS
from tests.zoo.tiny import TINY

#: Architectures that take only seconds.
SMALL = {**IMAGES, **TINY, **ATTENTION, **PIXELS, **SOUNDS, **FEATURES}
#: `collections.missing` says which architectures need a package that is not installed.
ARCHITECTURES = {**SMALL, **COLLECTIONS, **APPLICATIONS}
