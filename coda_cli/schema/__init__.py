"""What is written about an input: records, each with a schema and a version."""
