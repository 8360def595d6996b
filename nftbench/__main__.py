"""`python -m nftbench` is `nftbench`."""

from nftbench.cli.main import main

if __name__ == "__main__":
    main()
