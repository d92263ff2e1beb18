/* tools/command.h: what main.c knows of a command.
 *
 * run() gets the arguments after the command's words and returns the exit
 * code: 0 done, 1 failed, 2 called wrongly.  It has then printed why. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "base/base.h"

enum command_exit { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2 };

int send_run(int argc, char **argv);
int receive_run(int argc, char **argv);
int queue_list_run(int argc, char **argv);
int queue_show_run(int argc, char **argv);
int queue_create_run(int argc, char **argv);
int queue_delete_run(int argc, char **argv);
int queue_purge_run(int argc, char **argv);
int queue_pause_run(int argc, char **argv);
int queue_resume_run(int argc, char **argv);
int cluster_status_run(int argc, char **argv);
int cluster_step_down_run(int argc, char **argv);
int bench_amqp_run(int argc, char **argv);
int journal_verify_run(int argc, char **argv);
int journal_inspect_run(int argc, char **argv);
int journal_salvage_run(int argc, char **argv);
int store_stat_run(int argc, char **argv);
int store_verify_run(int argc, char **argv);
int store_rebuild_index_run(int argc, char **argv);
int user_hash_run(int argc, char **argv);
int doctor_run(int argc, char **argv);

#endif
