"""The errors by which a use case refuses, in the words of the domain; the web edge turns each into its status code."""

from bson import ObjectId


class Refused(Exception):
    """A request that is understood and not carried out. The text is for the person who asked."""


class Invalid(Refused):
    """A field of the request is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(Refused):
    """What is asked for does not exist, or the asker may not see it: the two are told apart nowhere."""


class NoAccount(NotFound):
    """The account of `who` has been deleted, maybe meanwhile and by whoever asks."""

    def __init__(self, who: ObjectId) -> None:
        super().__init__("There is no such account any more.")
        self.who = who


class Forbidden(Refused):
    """What is asked for exists, the asker knows that, and may not do it."""


class Conflict(Refused):
    """The request contradicts what is stored."""


class WrongPassword(Refused):
    """Handle and password do not go together; which of the two is wrong is not said."""


class TooMany(Refused):
    """There are too many such requests. `retry_after_s`: seconds after which another one may succeed."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
