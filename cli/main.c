// SPDX-License-Identifier: MIT
/* The program; all it does is in cli.c, which tests can link. */
#include "cli.h"

int main(int argc, char **argv)
{
	return cli_main(argc, argv);
}
