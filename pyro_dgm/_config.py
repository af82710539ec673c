"""Objects that remember how they were constructed.

A saved model is built again from the arguments of its constructor, so everything a constructor may hold (models,
transforms, univariate families) keeps its own arguments in ``config``. Subclassing :class:`Configured` is all that
it takes: the outermost constructor leaves its arguments, defaults included, after it has run.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def recorded(self: "Configured", *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is recorded:
            bound = inspect.signature(init).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.config = dict(list(bound.arguments.items())[1:])

    return recorded


class Configured:
    """Keeps the arguments of the constructor.

    Attributes:
        config: The arguments by name, defaults included.
    """

    config: Mapping[str, Any] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)
