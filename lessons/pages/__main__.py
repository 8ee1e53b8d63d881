"""python -m lessons.pages"""

from lessons.pages import build

if __name__ == "__main__":
    build()
