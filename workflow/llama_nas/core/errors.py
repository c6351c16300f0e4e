"""The one exception a user is meant to read: a single line that names the file and key and what would be right."""


class UserError(Exception):
    """Bad input from outside (config, data, checkpoint, device, disk). The CLI prints one line and exits with 2."""
