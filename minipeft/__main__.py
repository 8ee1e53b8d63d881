from minipeft.cli import main

main()
