"""`race`: backbones on the data of the user, compared in one table."""
