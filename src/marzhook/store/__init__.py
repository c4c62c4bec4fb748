"""What is on disk: SQLAlchemy Core over SQLite."""
