"""StudyBuddy: lecture links and PDFs in, study material out, over GraphQL."""
