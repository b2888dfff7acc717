"""What StudyBuddy does.  Knows no strawberry, fastapi or arq."""
