"""Images as rewards take them: what counts as a picture, the references' preprocessing, and JPEG sizes."""
