// SPDX-License-Identifier: MIT
/*
 * The live view of dksm top: the only part that knows ncurses.  It draws all of
 * the screen each time; ncurses sends what has changed.  Lines that do not fit
 * are cut, so that any size of the terminal will do.
 */
#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "top.h"

#define ESCAPE 27
#define ERASE_CTRL_H 8
#define ERASE_DELETE 127
#define KEY_QUIT 'q'

/* A line being typed: a filter, "" for none. */
struct prompt {
	const char *words;	/* NULL when nothing is typed */
	char *text;		/* in the view, as long as DKSM_NAME_SIZE */
};

struct screen {
	struct top_source *source;
	struct prompt prompt;
	size_t first;		/* shown process that is at the top */
	bool paused;
	bool help;
};

static const char *const help_lines[] = {
	"Keys of dksm top",
	"",
	"  P D M S V C L N   sort by PID, DOMAIN, MEMORY, SHARED, SAVED (V),",
	"                    COPIES/S, LEARNED or COMMAND (N)",
	"  < >               sort by the column to the left or right",
	"  d                 show one domain only; an empty name shows all",
	"  /                 show only what has a text in PID, domain or command",
	"  space             pause, and go on",
	"  arrows, page up and down, home",
	"                    move in the list of processes",
	"  h ?               this help, and back",
	"  q                 quit",
	"",
	"What the columns are: dksm top --help",
};

static void put(int y, attr_t attributes, const char *text)
{
	if (y >= LINES)
		return;
	move(y, 0);
	attrset((int)attributes);
	addnstr(text, COLS);
	if (attributes & A_REVERSE)
		chgat(-1, A_REVERSE, 0, NULL);
	attrset(A_NORMAL);
}

/* Shown rows from @first on, down to before line @end; returns the next line. */
static int put_rows(int y, int end, const struct top_rows *rows, size_t first,
		    int names)
{
	for (size_t i = 0; i < rows->nr && y < end; i++) {
		if (!rows->list[i].shown || (first && first--))
			continue;
		put(y++, A_NORMAL, top_text(&rows->list[i], names).text);
	}
	return y;
}

static void put_help(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(help_lines); i++)
		put((int)i, i ? A_NORMAL : A_BOLD, help_lines[i]);
}

/* Domains take a third of the screen at most, but one line at least. */
static void put_tables(struct screen *screen)
{
	const struct top_sample *now = &screen->source->now;
	int names = top_names_width(now, COLS), y;
	size_t nr = top_shown(&now->processes);

	if (screen->first >= nr)
		screen->first = nr ? nr - 1 : 0;
	put(0, A_BOLD, top_summary(now, &screen->source->view).text);
	put(1, A_REVERSE, top_head(false, names).text);
	y = put_rows(2, LINES > 11 ? 1 + LINES / 3 : 3, &now->domains, 0, names);
	put(y, A_REVERSE, top_head(true, names).text);
	put_rows(y + 1, LINES - 1, &now->processes, screen->first, names);
}

static void put_bottom(const struct screen *screen)
{
	const struct prompt *prompt = &screen->prompt;
	char line[160];

	snprintf(line, sizeof(line), "%s%s", prompt->words ? prompt->words :
		 screen->paused ? "PAUSED: space goes on, " : "",
		 prompt->words ? prompt->text :
		 "h help, q quit, / filter, d domain, < > sort, space pause");
	move(LINES - 1, 0);
	clrtoeol();
	put(LINES - 1, prompt->words || screen->paused ? A_BOLD : A_DIM, line);
	curs_set(prompt->words ? 1 : 0);
}

static void draw(struct screen *screen)
{
	erase();
	if (screen->help)
		put_help();
	else
		put_tables(screen);
	put_bottom(screen);
	refresh();
}

static void prompt_key(struct screen *screen, int key)
{
	char *text = screen->prompt.text;
	size_t len = strlen(text);

	if (key == ESCAPE)
		*text = 0;
	if (key == ESCAPE || key == '\n' || key == '\r' || key == KEY_ENTER)
		screen->prompt.words = NULL;
	else if (len && (key == KEY_BACKSPACE || key == ERASE_CTRL_H ||
			 key == ERASE_DELETE))
		text[len - 1] = 0;
	else if (key >= ' ' && key < ERASE_DELETE && len + 1 < DKSM_NAME_SIZE) {
		text[len] = (char)key;
		text[len + 1] = 0;
	}
}

static void prompt_begin(struct screen *screen, const char *words, char *text)
{
	*text = 0;
	screen->prompt = (struct prompt){ words, text };
}

static void scroll_key(struct screen *screen, int key)
{
	size_t page = LINES > 4 ? (size_t)LINES / 2 : 1;
	size_t step = key == KEY_UP || key == KEY_DOWN ? 1 : page;

	if (key == KEY_HOME)
		screen->first = 0;
	else if (key == KEY_DOWN || key == KEY_NPAGE)
		screen->first += step;
	else if (key == KEY_UP || key == KEY_PPAGE)
		screen->first -= screen->first < step ? screen->first : step;
}

static void sort_key(struct top_view *view, int key)
{
	static const char letters[TOP_COLUMNS + 1] = "PDMSVCLN";
	const char *letter = key < 256 ? strchr(letters, key) : NULL;

	if (letter && *letter)
		view->sort = (enum top_column)(letter - letters);
	else if (key == '<' || key == KEY_LEFT)
		view->sort = (view->sort + TOP_COLUMNS - 1) % TOP_COLUMNS;
	else if (key == '>' || key == KEY_RIGHT)
		view->sort = (view->sort + 1) % TOP_COLUMNS;
}

static void command_key(struct screen *screen, int key)
{
	struct top_view *view = &screen->source->view;

	switch (key) {
	case ' ':
		screen->paused = !screen->paused;
		break;
	case 'h':
	case '?':
		screen->help = !screen->help;
		break;
	case '/':
		prompt_begin(screen, "Show only what has: ", view->text);
		break;
	case 'd':
		prompt_begin(screen, "Show only domain: ", view->domain);
		break;
	default:
		sort_key(view, key);
		scroll_key(screen, key);
	}
}

/* Milliseconds until the next sample is due. */
static int left_ms(const struct screen *screen)
{
	const struct top_source *source = screen->source;
	double left = source->now.seconds + source->interval - top_seconds();

	return left > 0 ? (int)(left * 1000) + 1 : 0;
}

/* Without a key for so long, ERR; a resized terminal is a key, too. */
static int wait_key(const struct screen *screen)
{
	timeout(screen->paused ? -1 : left_ms(screen));
	return getch();
}

/* Of a terminal that is gone, getch() would tell nothing for ever, at once. */
static bool hung_up(void)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&input, 1, 0) > 0 && input.revents & (POLLHUP | POLLERR);
}

static int run(struct screen *screen)
{
	int err = top_next(screen->source), key;

	while (!err) {
		top_arrange(&screen->source->now, &screen->source->view);
		draw(screen);
		key = wait_key(screen);
		if ((key == KEY_QUIT && !screen->prompt.words) ||
		    (key == ERR && hung_up()))
			break;
		if (screen->prompt.words)
			prompt_key(screen, key);
		else
			command_key(screen, key);
		if (!screen->paused && !left_ms(screen))
			err = top_next(screen->source);
	}
	return err;
}

int top_live(struct top_source *source)
{
	struct screen screen = { .source = source };
	SCREEN *terminal = newterm(NULL, stdout, stdin);
	int err;

	if (!terminal)
		return -ENOTTY;
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	set_escdelay(50);
	err = run(&screen);
	endwin();
	delscreen(terminal);
	return err;
}
