"""The laws of the library, checked on a user's weights and against other frameworks."""
