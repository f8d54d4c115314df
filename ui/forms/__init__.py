"""Forms made of any frozen settings model."""
