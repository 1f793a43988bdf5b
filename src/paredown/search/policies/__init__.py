"""What proposes strategies, one policy a file."""
