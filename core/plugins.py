"""What a plugin imports: a module out of this tree whose components are chosen like those of this one.

    from core.plugins import register

    @register("checker")
    @dataclass
    class CheckerMask(Mask): ...

`plugins=[my_lab.masks]` on a command, `plugins:` in a study or an entry point of the group ``ssl_ablations.plugins``
finds it; docs/plugins.md has one example of each kind, `core.testing` holds them to what every component must do.
"""

from core.configuring.plugins import register
from core.data.arrays import ArrayDataset
from core.models.wrapped import FrameEncoder, TokenEncoder

__all__ = ["ArrayDataset", "FrameEncoder", "TokenEncoder", "register"]
