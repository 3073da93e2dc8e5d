"""The version that --version prints; CITATION.cff and CHANGELOG.md say the same."""

VERSION = "1.0.0"
