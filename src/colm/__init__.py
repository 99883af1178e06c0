"""colm: train language models on mini-batches that are small in memory and large in effect.

The one public gate. ``__init__.pyi`` says which names there are and where each comes from; a name
is imported when it is first used, so that nothing heavy is loaded before it is asked for.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
