/* tests/unit/test_list.c: the intrusive list. */
#include "tests/unit/test.h"

#include "base/list.h"

struct item {
	int number;
	struct list link;
};

static void check_order(struct list *head, const int *numbers, size_t count)
{
	size_t i = 0;

	list_for_each(pos, head) {
		assert_true(i < count);
		assert_int_equal(list_entry(pos, struct item, link)->number,
				 numbers[i]);
		assert_ptr_equal(pos->next->prev, pos);
		i++;
	}
	assert_int_equal(i, count);
}

TEST("items come out in the order in which they were pushed")
{
	struct list head = LIST_INIT(head);
	struct item items[3] = {{.number = 1}, {.number = 2}, {.number = 3}};

	assert_true(list_empty(&head));
	assert_null(list_pop(&head));
	list_push(&head, &items[1].link);
	list_push(&head, &items[2].link);
	list_push_front(&head, &items[0].link);
	assert_false(list_empty(&head));
	check_order(&head, (int[]){1, 2, 3}, 3);
	for (int i = 0; i < 3; i++)
		assert_ptr_equal(list_pop(&head), &items[i].link);
	assert_true(list_empty(&head));
}

TEST("an item may be removed twice, and its neighbours stay linked")
{
	struct list head = LIST_INIT(head);
	struct item items[3] = {{.number = 1}, {.number = 2}, {.number = 3}};

	for (int i = 0; i < 3; i++)
		list_push(&head, &items[i].link);
	list_remove(&items[1].link);
	list_remove(&items[1].link);
	check_order(&head, (int[]){1, 3}, 2);
}

TEST("a loop may remove the item that it stands on")
{
	struct list head = LIST_INIT(head);
	struct item items[4] = {
		{.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}};

	for (int i = 0; i < 4; i++)
		list_push(&head, &items[i].link);
	list_for_each_safe(pos, &head) {
		if (list_entry(pos, struct item, link)->number % 2)
			list_remove(pos);
	}
	check_order(&head, (int[]){2, 4}, 2);
}

TEST_MAIN()
