"""Architectures: a name, and a function that makes a small plain model of it.

Each has the blocks of its architecture, their kernels, activations, branches and
shuffles, but few of them, and small inputs: what converts does not depend on size.
"""

from tests.zoo.applications import APPLICATIONS
from tests.zoo.attention import ATTENTION
from tests.zoo.collections import COLLECTIONS
from tests.zoo.features import FEATURES
from tests.zoo.images import IMAGES
from tests.zoo.pixels import PIXELS
from tests.zoo.sounds import SOUNDS
from tests.zoo.tiny import TINY

#: Those that take seconds.
SMALL = {**IMAGES, **TINY, **ATTENTION, **PIXELS, **SOUNDS, **FEATURES}
#: `collections.missing` says which of them lack a package.
ARCHITECTURES = {**SMALL, **COLLECTIONS, **APPLICATIONS}
